"""The attributes that the index holds: one table, from PS3.4 Annex C.6.1.1 and C.6.2.1.

Required and unique keys of the four levels, the optional keys that query clients commonly send,
and what the levels are identified by. ``Key.column`` names the column in the level's table.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from pydicom.datadict import dictionary_VM


class Level(StrEnum):
    """A level of the query/retrieve information model (PS3.4 §C.6)."""

    PATIENT = "PATIENT"
    STUDY = "STUDY"
    SERIES = "SERIES"
    INSTANCE = "IMAGE"


@dataclass(frozen=True, slots=True)
class Key:
    """One attribute: its keyword, tag and VR (PS3.6), and the column that holds it.

    ``multiple`` tells that it may have several values.
    """

    level: Level
    column: str
    keyword: str
    tag: int
    vr: str
    multiple: bool


_TABLE = """
PATIENT  patient_id                           PatientID                                00100020 LO
PATIENT  issuer_of_patient_id                 IssuerOfPatientID                        00100021 LO
PATIENT  patient_name                         PatientName                              00100010 PN
PATIENT  patient_birth_date                   PatientBirthDate                         00100030 DA
PATIENT  patient_birth_time                   PatientBirthTime                         00100032 TM
PATIENT  patient_sex                          PatientSex                               00100040 CS
PATIENT  other_patient_ids                    OtherPatientIDs                          00101000 LO
PATIENT  other_patient_names                  OtherPatientNames                        00101001 PN
PATIENT  ethnic_group                         EthnicGroup                              00102160 SH
PATIENT  patient_comments                     PatientComments                          00104000 LT
STUDY    study_instance_uid                   StudyInstanceUID                         0020000D UI
STUDY    study_date                           StudyDate                                00080020 DA
STUDY    study_time                           StudyTime                                00080030 TM
STUDY    accession_number                     AccessionNumber                          00080050 SH
STUDY    study_id                             StudyID                                  00200010 SH
STUDY    study_description                    StudyDescription                         00081030 LO
STUDY    referring_physician_name             ReferringPhysicianName                   00080090 PN
STUDY    name_of_physicians_reading_study     NameOfPhysiciansReadingStudy             00081060 PN
STUDY    procedure_code                       ProcedureCodeSequence                    00081032 SQ
STUDY    admitting_diagnoses_description      AdmittingDiagnosesDescription            00081080 LO
STUDY    patient_age                          PatientAge                               00101010 AS
STUDY    patient_size                         PatientSize                              00101020 DS
STUDY    patient_weight                       PatientWeight                            00101030 DS
STUDY    occupation                           Occupation                               00102180 SH
STUDY    additional_patient_history           AdditionalPatientHistory                 001021B0 LT
SERIES   series_instance_uid                  SeriesInstanceUID                        0020000E UI
SERIES   modality                             Modality                                 00080060 CS
SERIES   series_number                        SeriesNumber                             00200011 IS
SERIES   series_date                          SeriesDate                               00080021 DA
SERIES   series_time                          SeriesTime                               00080031 TM
SERIES   series_description                   SeriesDescription                        0008103E LO
SERIES   body_part_examined                   BodyPartExamined                         00180015 CS
SERIES   patient_position                     PatientPosition                          00185100 CS
SERIES   laterality                           Laterality                               00200060 CS
SERIES   protocol_name                        ProtocolName                             00181030 LO
SERIES   performing_physician_name            PerformingPhysicianName                  00081050 PN
SERIES   operators_name                       OperatorsName                            00081070 PN
SERIES   manufacturer                         Manufacturer                             00080070 LO
SERIES   manufacturer_model_name              ManufacturerModelName                    00081090 LO
SERIES   institution_name                     InstitutionName                          00080080 LO
SERIES   institutional_department_name        InstitutionalDepartmentName              00081040 LO
SERIES   station_name                         StationName                              00081010 SH
SERIES   performed_procedure_step_start_date  PerformedProcedureStepStartDate          00400244 DA
SERIES   performed_procedure_step_start_time  PerformedProcedureStepStartTime          00400245 TM
SERIES   request_attributes                   RequestAttributesSequence                00400275 SQ
INSTANCE sop_instance_uid                     SOPInstanceUID                           00080018 UI
INSTANCE sop_class_uid                        SOPClassUID                              00080016 UI
INSTANCE instance_number                      InstanceNumber                           00200013 IS
INSTANCE acquisition_number                   AcquisitionNumber                        00200012 IS
INSTANCE image_type                           ImageType                                00080008 CS
INSTANCE content_date                         ContentDate                              00080023 DA
INSTANCE content_time                         ContentTime                              00080033 TM
INSTANCE number_of_frames                     NumberOfFrames                           00280008 IS
INSTANCE rows                                 Rows                                     00280010 US
INSTANCE columns                              Columns                                  00280011 US
INSTANCE bits_allocated                       BitsAllocated                            00280100 US
INSTANCE completion_flag                      CompletionFlag                           0040A491 CS
INSTANCE verification_flag                    VerificationFlag                         0040A493 CS
"""


def _parse(table: str) -> tuple[Key, ...]:
    keys = []
    for line in table.split("\n"):
        if line:
            level, column, keyword, tag, vr = line.split()
            number = int(tag, 16)
            multiple = dictionary_VM(number) != "1"
            keys.append(Key(Level[level], column, keyword, number, vr, multiple))
    return tuple(keys)


KEYS = _parse(_TABLE)
BY_KEYWORD = {key.keyword: key for key in KEYS}
PATIENT_KEYS = tuple(key for key in KEYS if key.level is Level.PATIENT)
STUDY_KEYS = tuple(key for key in KEYS if key.level is Level.STUDY)
SERIES_KEYS = tuple(key for key in KEYS if key.level is Level.SERIES)
INSTANCE_KEYS = tuple(key for key in KEYS if key.level is Level.INSTANCE)

# Worked out when it is asked for (PS3.4 Tables C.6-1 to C.6-3); no columns.
COMPUTED_KEYS = _parse("""
PATIENT  studies_of_patient    NumberOfPatientRelatedStudies    00201200 IS
PATIENT  series_of_patient     NumberOfPatientRelatedSeries     00201202 IS
PATIENT  instances_of_patient  NumberOfPatientRelatedInstances  00201204 IS
STUDY    modalities_of_study   ModalitiesInStudy                00080061 CS
STUDY    classes_of_study      SOPClassesInStudy                00080062 UI
STUDY    series_of_study       NumberOfStudyRelatedSeries       00201206 IS
STUDY    instances_of_study    NumberOfStudyRelatedInstances    00201208 IS
SERIES   instances_of_series   NumberOfSeriesRelatedInstances   00201209 IS
""")

BY_TAG = {key.tag: key for key in (*KEYS, *COMPUTED_KEYS)}

# What identifies an entity of each level (PS3.4 §C.6.1.1, §C.6.2.1), the highest level first.
UNIQUE_KEYS = {
    Level.PATIENT: BY_KEYWORD["PatientID"],
    Level.STUDY: BY_KEYWORD["StudyInstanceUID"],
    Level.SERIES: BY_KEYWORD["SeriesInstanceUID"],
    Level.INSTANCE: BY_KEYWORD["SOPInstanceUID"],
}

# Sequences are held flat: of their items these attributes (PS3.4 Tables C.6-2 and C.6-3).
ITEM_KEYS: dict[int, tuple[tuple[int, str, str], ...]] = {
    0x00081032: (
        (0x00080100, "CodeValue", "SH"),
        (0x00080102, "CodingSchemeDesignator", "SH"),
        (0x00080103, "CodingSchemeVersion", "SH"),
        (0x00080104, "CodeMeaning", "LO"),
    ),
    0x00400275: (
        (0x00401001, "RequestedProcedureID", "SH"),
        (0x00400009, "ScheduledProcedureStepID", "SH"),
        (0x00080050, "AccessionNumber", "SH"),
    ),
}

# Attributes of series that are asked for at the study level: a study has those of its series.
SERIES_KEYS_OF_STUDY = tuple(
    BY_KEYWORD[keyword]
    for keyword in (
        "InstitutionName",
        "InstitutionalDepartmentName",
        "StationName",
        "BodyPartExamined",
    )
)
# A date and the time that belongs to it, for combined date-time matching.
DATES_AND_TIMES = tuple(
    (BY_KEYWORD[date], BY_KEYWORD[date.removesuffix("Date") + "Time"])
    for date in (
        "PatientBirthDate",
        "StudyDate",
        "SeriesDate",
        "PerformedProcedureStepStartDate",
        "ContentDate",
    )
)
